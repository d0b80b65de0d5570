"""The suite on broken stores, and on sound ones whose callers misuse them.

Not collected by itself: ``test_compliance`` runs what is ``EXPECTED``, and each must fail.
"""

import logging
import uuid
from contextlib import asynccontextmanager, nullcontext, suppress

import anyio
import pytest

from datahike_async.konserve import register_backend
from datahike_async.konserve import store as store_module
from datahike_async.konserve.backends.memory import MemoryBlobStore
from datahike_async.konserve.errors import (
    KonserveError,
    OutcomeUnknown,
    StoreConfigError,
    StoreIOError,
)
from datahike_async.konserve.locks import KeyLocks
from datahike_async.konserve.store import Store
from datahike_async.konserve.testing import StoreCompliance
from datahike_async.konserve.testing.laws import cancellation
from datahike_async.konserve.testing.negative import BROKEN
from datahike_async.konserve.testing.sound import Bare, Journalling, Specimens

EXPECTED = [(kind, law) for kind, planted in BROKEN.items() for law in planted.found_by]
EXPECTED += [
    ("RetriesBlindly", "test_an_update_under_faults_counts_once_or_says_so"),
    ("RetriesBlindly", "test_an_append_under_faults_is_there_once_or_says_so"),
    ("GoesOnAfterFailures", "test_a_write_of_many_that_fails_leaves_a_prefix"),
    ("SwallowsErrors", "test_after_a_lost_answer_reading_tells_what_is_there"),
    ("SwallowsErrors", "test_a_write_that_lands_late_is_there_once_it_has_landed"),
    ("SwallowsErrors", "test_an_update_under_faults_counts_once_or_says_so"),
    ("SwallowsErrorsOfJournals", "test_a_record_under_faults_is_there_once_or_says_so"),
    ("FindsNothingWhereReadingFails", "test_a_read_that_fails_says_so_and_can_be_repeated"),
    ("HasNoLocks", "test_no_update_is_lost_within_one_handle"),
    ("HasNoLocks", "test_no_element_of_a_log_is_lost_within_one_handle"),
    ("LeavesLocksHeld", "test_an_update_that_was_cancelled_leaves_the_key_to_others"),
    ("LeavesLocksHeld", "test_an_append_that_was_cancelled_happened_once_or_not_at_all"),
    ("KeepsDeletedStores", "test_a_store_is_created_once_connected_to_and_deleted"),
    ("KeepsDeletedStores", "test_a_store_that_is_made_anew_is_empty"),
    ("ListsElements", "test_what_is_appended_to_a_log_is_no_key"),
    ("ListsElements", "test_meta_says_key_type_and_time"),
    ("HearsAssoc", "test_a_hook_hears_of_assoc_in_with_its_path_however_short"),
    ("TellsTokens", "test_no_error_and_no_log_tells_what_the_backend_does_not_name"),
    (
        "ShowsAll",
        "test_a_store_shows_of_its_configuration_what_its_backend_names_and_no_more",
    ),
    ("LogsTokens", "test_no_error_and_no_log_tells_what_the_backend_does_not_name"),
    ("AttachesElsewhere", "test_attaching_finds_a_store_that_is_there"),
]


class OfKind(StoreCompliance):
    matrix_name = "planted"
    kind = MemoryBlobStore
    backend = Specimens

    @pytest.fixture
    def store_config(self):
        register_backend("planted", self.backend(self.kind))
        return {"backend": "planted", "id": str(uuid.uuid4())}


class TestUnbroken(OfKind):
    """The control: what is registered as the broken ones are, and is not broken."""


for name, planted in BROKEN.items():
    globals()[f"Test{name}"] = type(f"Test{name}", (OfKind,), {"kind": planted.kind})


class TestRetriesBlindly(OfKind):
    """What a caller must not do who does not know: the same once more."""

    @pytest.fixture(autouse=True)
    def misused(self, monkeypatch):
        for operation in ("update", "append"):
            once = getattr(Store, operation)

            async def twice(self, *args, once=once):
                try:
                    return await once(self, *args)
                except OutcomeUnknown:
                    return await once(self, *args)

            monkeypatch.setattr(Store, operation, twice)


class TestGoesOnAfterFailures(OfKind):
    """Items after one that failed are written all the same."""

    kind = Bare

    @pytest.fixture(autouse=True)
    def misused(self, monkeypatch):
        async def each(self, items, *, ordered=True):
            failed = None
            for key, value in items:
                try:
                    await self.assoc(key, value)
                except KonserveError as error:
                    failed = error
            if failed is not None:
                raise failed

        monkeypatch.setattr(Store, "multi_assoc", each)


class TestSwallowsErrors(OfKind):
    """Errors are taken for nothing."""

    operations = ("assoc", "update", "journal_append")

    @pytest.fixture(autouse=True)
    def misused(self, monkeypatch):
        for operation in self.operations:
            loud = getattr(Store, operation)

            async def quiet(self, *args, loud=loud, **options):
                with suppress(OutcomeUnknown, StoreIOError):
                    return await loud(self, *args, **options)

            monkeypatch.setattr(Store, operation, quiet)


class TestFindsNothingWhereReadingFails(TestSwallowsErrors):
    operations = ("get",)


class TestSwallowsErrorsOfJournals(TestSwallowsErrors):
    kind = Journalling


class TestHasNoLocks(OfKind):
    """Calls on one key of one handle do not wait for each other."""

    kind = Bare

    @pytest.fixture(autouse=True)
    def misused(self, monkeypatch):
        monkeypatch.setattr(KeyLocks, "holding", lambda self, name: nullcontext())


class TestLeavesLocksHeld(OfKind):
    """A call that is cancelled keeps its lock."""

    kind = Bare

    @pytest.fixture(autouse=True)
    def misused(self, monkeypatch):
        @asynccontextmanager
        async def holding(self, name):
            if name in self._locks:
                await anyio.sleep_forever()
            self._locks[name] = None
            yield
            del self._locks[name]

        monkeypatch.setattr(KeyLocks, "holding", holding)
        monkeypatch.setattr(cancellation, "PATIENCE", 0.1)


class KeepsDeletedStores(Specimens):
    async def delete(self, config):
        pass


class TestKeepsDeletedStores(OfKind):
    backend = KeepsDeletedStores


class TestListsElements(OfKind):
    """What is appended is a key like any other."""

    @pytest.fixture(autouse=True)
    def misused(self, monkeypatch):
        monkeypatch.setattr(store_module, "ELEMENT", None)


class TestHearsAssoc(OfKind):
    """A path of one key is taken for the key."""

    @pytest.fixture(autouse=True)
    def misused(self, monkeypatch):
        long = Store.assoc_in

        async def short(self, keys, value, *, meta=None):
            if len(keys) > 1:
                return await long(self, keys, value, meta=meta)
            await self.assoc(keys[0], value, meta=meta)
            return None, value

        monkeypatch.setattr(Store, "assoc_in", short)


class TellsTokens(Specimens):
    """An error quotes what it was given."""

    keys = frozenset({"token"})

    async def connect(self, config):
        token = config.get("token", "")
        if not isinstance(token, str):
            raise StoreConfigError(f"A token is a text, not {token!r}.")
        return await super().connect(config)


class TestTellsTokens(OfKind):
    backend = TellsTokens


class TestShowsAll(OfKind):
    """A store keeps its configuration as it was given."""

    @pytest.fixture
    def store_config(self):
        register_backend("planted", TellsTokens(MemoryBlobStore))
        return {"backend": "planted", "id": str(uuid.uuid4()), "token": "hush"}

    @pytest.fixture(autouse=True)
    def misused(self, monkeypatch):
        monkeypatch.setattr(store_module, "public", dict)


class LogsTokens(Specimens):
    """What is opened is noted in the log, with all that it was opened with."""

    keys = frozenset({"token"})

    async def create(self, config):
        logging.getLogger("planted").debug("creating %r", config)
        return await super().create(config)


class TestLogsTokens(OfKind):
    backend = LogsTokens


class AttachesElsewhere(Specimens):
    async def attach(self, config):
        return self.kind({})


class TestAttachesElsewhere(OfKind):
    backend = AttachesElsewhere

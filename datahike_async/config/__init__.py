"""Config: what a database is opened with, from a dict, keyword arguments or EDN text.

A Datahike config pastes in unchanged. Unknown keys and bad values are refused here; whether the
store and the index exist is found out where they are opened. Of stores it knows only how to show
their configuration (``konserve.redaction``).
"""

from datahike_async.config.model import Config, config_of
from datahike_async.config.writer import WriterConfig

__all__ = ["Config", "WriterConfig", "config_of"]

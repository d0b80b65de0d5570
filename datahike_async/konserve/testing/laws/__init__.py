"""The laws of a store, by theme. Each is a test whose name says what holds.

``lifecycle`` making, opening, deleting · ``values`` keys and values of every kind · ``binary``
bytes, ranges, damage · ``revisions`` reading what is new, compare-and-set · ``many_keys`` several
keys at once, listings · ``sweeping`` removing by name · ``journals`` appending to a key ·
``concurrency`` races · ``turns`` queueing · ``cancellation`` calls that are given up · ``failure``
calls that fail.
"""

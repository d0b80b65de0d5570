"""Loading tables: frames, arrays and files, row for row, in large durable transactions.

``sources`` reads tables batch by batch, ``cells`` makes their columns values of attributes,
``load`` is the verb. pyarrow is optional, and imported where a table needs it.
"""

"""The laws of an index, by theme: mixins of :class:`IndexCompliance`."""

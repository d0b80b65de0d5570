"""What can be called: functions and aggregates, on values and on columns."""

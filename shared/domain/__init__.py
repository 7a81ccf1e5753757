"""The rules that several services share: pure, no I/O, no clock."""

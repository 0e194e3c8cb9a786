"""Coverage-guided fuzzing of everything that reads what others wrote, and of the compiled operators.

    python -m fuzz TARGET [--inputs N] [--seed S] [--findings FOLDER]     one target
    python -m fuzz all ...                                                each in a process of its own
    make fuzz                                                             the same, 100000 inputs a target

The contract of a reader: bytes become a valid object that survives being written and read again, or a UserError. The
contract of an operator: what its plain-torch twin returns, or a RuntimeError, TypeError or ValueError. Anything else
(another exception, a crash, more than a second) is a finding: its input goes to FOLDER/TARGET/, and once mended to
tests/data/fuzz/TARGET/, where tests/test_fuzz_cases.py tries it for ever.
"""

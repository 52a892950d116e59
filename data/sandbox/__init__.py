"""The sandbox of execute.py. Three kinds of process, and which file runs in which:

    worker        execute.py's own process. It is trusted and knows the tests.
        boxes.py        its side of the wall: starts zygotes, asks for boxes, holds the clock
    zygote        a fresh Python without rights over anything outside. It knows no test and no program.
        zygote.py       shuts itself in, and forks a box for every run
    box           one run, in namespaces of its own. Its process does one of these:
        candidate.py    the program, or a session in which it answers requests. It knows no test ...
        inside.py       ... but those that must run beside it
        grading.py      the grader: knows the tests, asks the session, compares
        compare.py      when an output is right

    wire.py       what crosses between a candidate and its grader; both read it, the worker its words for errors.

Every other file belongs to one side, so the trust boundary lies between files: what a candidate says is read by
grading.py alone (but execute.py looks whether a short output is the expected text itself, and shows the last line of
a failed program's stderr), what a grader says by boxes.py alone, in fixed forms. From the far side the worker imports constants and functions that never see an answer.

A zygote imports this package too, so nothing is imported here: a name in this file would be in every box.
"""

"""The sandbox of execute.py. Three kinds of process, and which file runs in which:

    worker       execute.py's own process. It is trusted and knows the tests.
      boxes.py       its side of the wall: starts zygotes, asks for boxes, holds the clock
    zygote       a fresh Python without rights over anything outside. It knows no test, no program.
      zygote.py      shuts itself in, and forks a box for every run
    box          one run, in namespaces of its own. Its process does one of these:
      candidate.py   runs a program, or answers requests for its functions. It knows no test ...
      inside.py      ... but those that must run beside it
      grading.py     the grader: knows the tests, asks the candidate, compares
      compare.py     when an output is right

    wire.py      what crosses between a candidate and its grader; both read it
    sources.py   what a test's source tells without being run; read in all three

The trust boundary lies between files. What a candidate answers is read by grading.py alone, what a
grader says by boxes.py alone, in fixed forms. execute.py looks only whether a short output is the
expected text itself, and shows the last line of a failed program's stderr. It imports from the far
side constants and functions that see no answer. Nothing is imported in this file: a zygote reads it
too, and would hand it on to every box.
"""

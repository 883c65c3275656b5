"""The class kit: assignments from the lessons, and grades for what comes back."""

import os
import sys

# Whoever grades may stand in the folder of the submissions: nothing is imported from there.
CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
if os.getcwd() != CHECKOUT:
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != os.getcwd()]

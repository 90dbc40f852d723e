"""Child processes: leases, and the guard that ends a command when its owner ends.

guard, guarded                  the process that ends a command when its owner ends, and how to start one
lease                           a lock on a file that a run holds while it lives
scratch                         the temporary files of a process, removed with it
"""

"""The benchmarks: suites, tasks, custom tasks, their rows and the sources of the rows."""

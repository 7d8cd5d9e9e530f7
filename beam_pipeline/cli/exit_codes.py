"""What the command's exit codes mean."""

DONE = 0
FAILED = 1  # the job failed; run again, it goes on
MISTAKE = 2  # in the call, found before any work
TOO_MANY_FAILURES = 3  # published, but more pictures failed than --max-failure-ratio allows
INTERRUPTED = 130  # by Ctrl-C, as shells have it: 128 and the signal's number

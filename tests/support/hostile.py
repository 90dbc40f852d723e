"""Programs that do not solve their task but try to harm the machine, to read other files or to pass anyway.

The tests of each ask for what it does not define. A program prints BREACH where it got what it must not get.
`@HOME@` is a folder with a secret, `@OUTSIDE@` a file that everybody may write.
"""

ATTEMPT = """
import functools
print = functools.partial(print, flush=True)
def attempt(action, *values):
    try:
        value = action(*values)
    except BaseException as error:
        print("refused:", type(error).__name__, error)
    else:
        print("BREACH", value)
def call(number, *values):
    import ctypes
    library = ctypes.CDLL(None, use_errno=True)
    if library.syscall(number, *values) < 0:
        raise OSError(ctypes.get_errno(), "syscall")
"""
UNSOLVED = "assert solved() == 'it'"
OTHERS = "import glob, os\nothers = [n for n in glob.glob('/proc/[0-9]*') if n != f'/proc/{os.getpid()}']\n"

FORGERIES = {
    "says that it passed": "print('passed'); print('ready')",
    "leaves with 0": "import os; os._exit(0)",
    "leaves with sys.exit": "import sys; sys.exit(0)",
    "raises SystemExit": "raise SystemExit",
    "leaves with the status of a kill": "import os; os._exit(137)",
    "leaves when the harness lets it continue": "import atexit, os; atexit.register(os._exit, 0)",
    "replaces AssertionError": "import builtins; builtins.AssertionError = type('Fine', (SystemExit,), {})",
    "replaces the exit": "import os, sys; os._exit = print; os.write = print; sys.excepthook = print",
    "replaces exec and compile": "import builtins; builtins.exec = builtins.compile = lambda *a, **k: None",
    "writes to every file": "import os\nfor n in range(64):\n attempt_ = lambda: os.write(n, b'ready\\npassed\\n')\n"
    " try: attempt_()\n except OSError: pass",
    "echoes every file": "import os\nfor n in range(3, 64):\n try: os.write(n, os.read(n, 32))\n except OSError: pass",
    "closes every file": "import os; os.closerange(0, 256); import time; time.sleep(60)",
    "looks for the answer in the frames": "import sys, os\nframe = sys._getframe()\nwhile frame:\n"
    " for value in list(frame.f_locals.values()):\n  if isinstance(value, bytes):\n   for n in range(3, 64):\n"
    "    try: os.write(n, value)\n    except OSError: pass\n frame = frame.f_back",
    "looks for the answer among all objects": "import gc, os\nfor thing in gc.get_objects():\n"
    " for value in gc.get_referents(thing):\n  if isinstance(value, bytes) and len(value) == 32:\n"
    "   try: os.write(3, value)\n   except OSError: pass",
    "equals everything": "class Same:\n def __eq__(self, other): return True\n __hash__ = object.__hash__\n"
    "def solved(): return Same()",
    "is a text that equals everything": "class Same(str):\n def __eq__(self, other): return True\n"
    " __hash__ = str.__hash__\ndef solved(): return Same('x')",
    "ends in the call": "import os\ndef solved(): os._exit(0)",
    "raises the end in the call": "def solved(): raise SystemExit(0)",
    "changes the functions that serve it": "import builtins, gc, inspect\nfor each in gc.get_objects():\n"
    " if inspect.isfunction(each) and each.__name__ in ('serve', 'answer', 'encode', 'judge', 'verdict', 'main'):\n"
    "  each.__code__ = (lambda *a, **k: 'it').__code__\n"
    "builtins.AssertionError = builtins.isinstance = lambda *a: True\ndef solved(): return 'x'",
    "writes a verdict to every number in the frames": "import os, sys\ndef solved():\n frame = sys._getframe()\n"
    " while frame:\n  for value in [*frame.f_locals.values(), *frame.f_globals.values(), *range(256)]:\n"
    "   if isinstance(value, int) and value < 256:\n    for text in (b'passed\\n', b'ready\\npassed\\n'):\n"
    "     try: os.write(value, text)\n     except OSError: pass\n  frame = frame.f_back\n return 'x'",
    "sends the answer that is in the checker's frame": "import os, sys\nframe = sys._getframe()\nwhile frame:\n"
    " held = frame.f_locals\n if 'key' in held and 'channel' in held:\n"
    "  os.write(held['channel'], held['key'] + os.read(held['channel'], 32)); os._exit(0)\n frame = frame.f_back",
    "sends its own replies from the frame that serves it": "import sys\nframe = sys._getframe()\nwhile frame:\n"
    " for value in [*frame.f_locals.values()]:\n  if hasattr(value, 'send'):\n"
    "   for text in ('passed', None, {'value': True}, {'value': 'it'}, ['passed']): value.send(text)\n"
    " frame = frame.f_back",
    "writes replies to every file": "import os\ndef solved():\n for n in range(64):\n"
    '  try: os.write(n, b\'{"value": "it"}\\n\'[:8])\n  except OSError: pass\n os._exit(0)',
    "looks for the tests among all objects": "import gc, sys\nwanted = ' '.join(('assert', 'solved()'))\n"
    "frame = sys._getframe()\nheld = gc.get_objects()\nwhile frame: held += [frame.f_locals]; frame = frame.f_back\n"
    "for each in held:\n for text in gc.get_referents(each):\n"
    "  if isinstance(text, str) and wanted in text and text != wanted: print('BREACH', text)",
    "looks for the tests in files": "import os\nwanted = ' '.join(('assert', 'solved()')).encode()\n"
    "for top in ('/tmp', '/programs', '/inside', '/dev/shm'):\n"
    " for folder, _, files in os.walk(top):\n  for file in files:\n"
    "   try: found = wanted in open(f'{folder}/{file}', 'rb').read(1 << 20)\n   except OSError: continue\n"
    "   if found: print('BREACH', folder, file)\n"
    "for n in range(64):\n try: found = wanted in os.pread(n, 1 << 20, 0)\n except OSError: continue\n"
    " if found: print('BREACH', n)",
    "looks into the others": OTHERS
    + "for name in ('mem', 'environ', 'maps', 'fd/0', 'fd/1', 'fd/3', 'fd/4', 'fd/5'):\n"
    " for other in others or ['/proc/1']: attempt(os.open, f'{other}/{name}', os.O_RDWR)\n",
    "writes into the others": OTHERS + "for other in others or ['/proc/1']:\n"
    " for name in ('mem', 'fd/1', 'fd/2'): attempt(os.open, f'{other}/{name}', os.O_WRONLY)\n",
    "opens itself to the others": "attempt(call, 157, 1, 0, 0, 0, 0)",
    "limits the others": "import os, resource\nfor pid in (os.getppid(), 1):\n"
    " attempt(call, 302, pid, 0, 0, 0); attempt(resource.prlimit, pid, resource.RLIMIT_CPU, (0, 0))\n"
    " attempt(call, 203, pid, 0, 0); attempt(call, 434, pid, 0); attempt(call, 141, 0, pid, 19)\n"
    "attempt(call, 424, 3, 9, 0, 0)",
    "lets the kernel send a signal": "import fcntl, os, struct\nread, write = os.pipe()\n"
    "attempt(fcntl.fcntl, read, fcntl.F_SETOWN, os.getppid()); attempt(fcntl.fcntl, read, 10, 9)\n"
    "attempt(fcntl.fcntl, read, 15, struct.pack('ii', 1, os.getppid()))\n"
    "attempt(call, 16, read, 0x8901, 0); attempt(call, 16, read, 0x5452, 0)",
    "answers with a bomb": "def solved(): return 'x' * (20 << 20)",
    "answers with a deep list": "def solved():\n held = []\n for _ in range(100000): held = [held]\n return held",
}

HARMS = {
    # Read data outside the sandbox.
    "reads the environment": "import os; print(dict(os.environ))",
    "reads the environment of the others": "attempt(lambda: open('/proc/1/environ').read())\n"
    "attempt(lambda: open('/proc/self/environ').read())",
    "reads a home": "import os\nattempt(lambda: open('@HOME@/secret').read())\n"
    "for folder, _, files in os.walk('@HOME@'): print(folder, files)",
    "reads through a link": "import os; os.symlink('@HOME@', 'home')\nattempt(lambda: open('home/secret').read())",
    "climbs": "import os\nattempt(lambda: open('../' * 30 + '@HOME@/secret').read())",
    "reads the passwords": "attempt(lambda: open('/etc/passwd').read()); attempt(lambda: open('/etc/shadow').read())",
    "imports the tests": "attempt(__import__, 'tests'); attempt(__import__, 'quantgate')",
    "reads standard input": "import sys; attempt(lambda: 1 / len(sys.stdin.read()))",
    "opens a socket": "import socket; attempt(lambda: socket.create_connection(('127.0.0.1', 22), 1))",
    "opens an abstract socket": "import socket; attempt(lambda: socket.socket(socket.AF_UNIX).bind(chr(0) + 'name'))",
    "looks at the keys": "attempt(call, 250, 6, -4, 0, 0, 0)",
    "looks into its parent": "attempt(call, 101, 16, 1, 0, 0); attempt(call, 310, 1, 0, 0, 0, 0, 0)",
    # Change things outside the sandbox.
    "writes outside": "attempt(lambda: open('@OUTSIDE@', 'w').write('changed'))",
    "writes to the system": "for path in ('/usr/x', '/x', '/dev/x', '/inside/x', '/lib/x', '/dev/shm/x', '/home/x'):\n"
    " attempt(open, path, 'w')",
    "writes to its interpreter": "import os; attempt(open, os.__file__, 'a'); attempt(os.chmod, os.__file__, 0o777)",
    "changes the kernel": "attempt(open, '/proc/sys/kernel/core_pattern', 'w'); attempt(open, '/sys/power/state', 'w')",
    "opens the disks": "import os\nattempt(os.mknod, '/tmp/disk', 0o60600, os.makedev(254, 0))\n"
    "attempt(open, '/dev/vda')",
    "becomes root": "import os; attempt(os.setuid, 0); attempt(os.setresgid, 0, 0, 0); attempt(os.setgroups, [0])",
    "mounts": "attempt(call, 165, b'none', b'/tmp', b'tmpfs', 0, 0); attempt(call, 161, b'/tmp')",
    "makes name spaces": "attempt(call, 272, 0x10000000); attempt(call, 56, 0x10000000 | 17, 0, 0, 0, 0)",
    "takes another file system": "import os; os.mkdir('root'); attempt(os.chroot, 'root')",
    "takes a real-time priority": "import os; attempt(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1));"
    " attempt(os.nice, -5)",
    "raises its limits": "import resource as r\nattempt(r.setrlimit, r.RLIMIT_AS, (-1, -1))\n"
    "attempt(r.setrlimit, r.RLIMIT_NOFILE, (4096, 4096))",
    "kills all": "import os; attempt(os.kill, -1, 9)",
    "kills its parent": "import os; attempt(os.kill, os.getppid(), 9); attempt(os.kill, 1, 9)\n"
    "attempt(os.killpg, 0, 9)",
    "stops itself": "import os, signal; attempt(os.kill, os.getpid(), signal.SIGSTOP)",
    "watches files": "attempt(call, 253); attempt(call, 294, 0)",
    "loads into the kernel": "attempt(call, 321, 0, 0, 0); attempt(call, 425, 8, 0); attempt(call, 298, 0, 0, 0, 0, 0)",
    # To leave something behind.
    "forks without end": "import os\nwhile True:\n os.fork()",
    "forks without the C library": "attempt(call, 57); attempt(call, 58); attempt(call, 56, 17, 0, 0, 0, 0)",
    "forks by clone3": "import ctypes; attempt(call, 435, ctypes.create_string_buffer(88), 88)",
    "calls by x32's numbers": "call(0x40000000 + 57)",
    "becomes a daemon": "import os\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
    "import time; time.sleep(600)",
    "starts a program": "import os, subprocess\nattempt(subprocess.run, ['/bin/sleep', '600'])\n"
    "attempt(os.execv, '/bin/sleep', ['sleep', '600']); attempt(os.posix_spawn, '/bin/sleep', ['sleep', '600'], {})",
    "starts a pool": "import multiprocessing; multiprocessing.Pool(4).map(abs, range(4))",
    # To take more than its share.
    "catches what stops it": "import signal\nfor n in range(1, 65):\n try: signal.signal(n, signal.SIG_IGN)\n"
    " except (OSError, ValueError): pass\nwhile True:\n try:\n  while True: pass\n except BaseException: pass",
    "loops": "while True: pass",
    "sleeps": "import time; time.sleep(600)",
    "waits in C": "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "busy threads": "import threading\ndef spin():\n while True: pass\n"
    "for _ in range(8): threading.Thread(target=spin).start()\nspin()",
    "threads without end": "import threading, time\nthreading.stack_size(32768)\n"
    "while True: threading.Thread(target=time.sleep, args=(60,)).start()",
    "takes all memory": "held = []\nwhile True: held.append(bytearray(1 << 20))",
    "takes all memory at once": "held = bytearray(1 << 36)",
    "maps all memory": "import mmap; held = [mmap.mmap(-1, 1 << 28) for _ in range(100)]",
    "hides memory": "import os; attempt(os.memfd_create, 'hidden'); attempt(call, 29, 0, 1 << 28, 0o1600)",
    "multiplies digits": "held = 9 ** 9 ** 9",
    "unpacks a bomb": "import zlib; held = zlib.compress(bytes(1 << 26))\n"
    "while True: held = zlib.decompress(held) * 64",
    "prints without end": "while True: print('x' * 1000)",
    "fills the disk": "file = open('/tmp/full', 'wb')\nwhile True: file.write(bytes(1 << 20))",
    "fills the disk with many files": "import itertools\n"
    "for n in itertools.count(): open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))",
    "writes a sparse giant": "file = open('giant', 'wb'); attempt(file.truncate, 1 << 40)",
    "takes all files": "import itertools\nfor n in itertools.count(): open(f'/tmp/{n}', 'w').close()",
    "nests folders": "import os\nwhile True: os.mkdir('d'); os.chdir('d')",
    "opens files without end": "import os\nheld = []\nwhile True: held.append(os.open('/dev/zero', 0))",
    "recurses": "import sys; sys.setrecursionlimit(10 ** 9)\ndef again(n): return again(n + 1) + 1\nagain(0)",
    "breaks the interpreter": "import ctypes; ctypes.string_at(0)",
    "hides in __str__": "class Slow(Exception):\n def __str__(self):\n  while True: pass\nraise Slow",
    "no program at all": "def (",
    "a null byte": "x = '\0'",
    "half a character": "x = '\ud800'",
}

HOSTILE = FORGERIES | HARMS

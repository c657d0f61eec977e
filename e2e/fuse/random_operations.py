"""Does the same random operations on a file under test and on a plain one, and compares what they return.

usage: random_operations.py SEED COUNT FILE ORACLE
Prints the seed and the last operations, and exits with 1, at the first difference.
"""
import collections
import ctypes
import mmap
import os
import random
import sys

seed, count = int(sys.argv[1]), int(sys.argv[2])
paths = sys.argv[3:5]
LARGEST = 512 * 1024
LONGEST = 64 * 1024
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16

rng = random.Random(seed)
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
fds = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600) for path in paths]
size = 0
recent = collections.deque(maxlen=20)


def both(call):
    under_test, oracle = call(fds[0]), call(fds[1])
    if under_test != oracle:
        fail(f"the file under test has {shown(under_test)}, the plain one {shown(oracle)}")
    return oracle


def shown(value):
    return f"{len(value)} bytes" if isinstance(value, bytes) else value


def fail(why):
    print(f"seed {seed}, after {done} operations: {why}")
    for operation in recent:
        print("  ", *operation)
    sys.exit(1)


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, offset, length) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def place():
    offset = rng.randrange(max(size, 1))
    return offset, rng.randint(1, LONGEST)


def read():
    offset, length = place()
    recent.append(("read", offset, length))
    both(lambda fd: os.pread(fd, length, offset))


def write():
    global size
    offset = rng.randrange(min(size + LONGEST, LARGEST - 1) or 1)
    length = min(rng.randint(1, LONGEST), LARGEST - offset)
    recent.append(("write", offset, length))
    data = rng.randbytes(length)
    both(lambda fd: os.pwrite(fd, data, offset))
    size = max(size, offset + length)


def truncate():
    global size
    size = rng.randrange(LARGEST)
    recent.append(("truncate", size))
    both(lambda fd: os.ftruncate(fd, size))


def punch():
    offset, length = place()
    recent.append(("punch", offset, length))
    both(lambda fd: fallocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, length))


def zero():
    offset, length = place()
    recent.append(("zero", offset, length))
    both(lambda fd: fallocate(fd, ZERO_RANGE | KEEP_SIZE, offset, length))


def allocate():
    global size
    offset, length = place()
    length = min(length, LARGEST - offset)
    recent.append(("allocate", offset, length))
    both(lambda fd: fallocate(fd, 0, offset, length))
    size = max(size, offset + length)


def map_write():
    if size == 0:
        return
    offset, length = place()
    length = min(length, size - offset)
    recent.append(("map", offset, length))
    data = rng.randbytes(length)

    def store(fd):
        with mmap.mmap(fd, size) as view:
            view[offset : offset + length] = data

    both(store)


def sync():
    recent.append(("sync",))
    both(os.fdatasync)


def forget():
    """The next reads come from the disk."""
    recent.append(("forget",))
    os.fsync(fds[0])
    os.posix_fadvise(fds[0], 0, 0, os.POSIX_FADV_DONTNEED)


def whole():
    recent.append(("whole",))
    both(lambda fd: os.fstat(fd).st_size)
    both(lambda fd: os.pread(fd, LARGEST + 1, 0))


OPERATIONS = [(read, 300), (write, 300), (truncate, 60), (punch, 80), (zero, 80), (allocate, 40)]
OPERATIONS += [(map_write, 60), (sync, 2), (forget, 4), (whole, 12)]
calls, weights = zip(*OPERATIONS)
for done, operation in enumerate(rng.choices(calls, weights, k=count)):
    try:
        operation()
    except OSError as error:
        fail(error)
done = count
forget()
whole()
print(f"{count} operations")

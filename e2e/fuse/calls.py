"""Makes system calls on one file, as told by lines of JSON on stdin: ["name", argument...].

Prints the result of each as a line of JSON: what the call returned, or the name of its error.
"""
import ctypes
import errno
import hashlib
import json
import mmap
import os
import sys

path = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
fd = -1


def content(length, seed):
    return bytes((seed + i * 7 + (i >> 8)) & 0xFF for i in range(length))


def told(data):
    return [len(data), hashlib.sha256(data).hexdigest()[:16]]


def close():
    global fd
    if fd >= 0:
        os.close(fd)
    fd = -1


def open_(flags):
    global fd
    close()
    bits = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR, "trunc": os.O_RDWR | os.O_TRUNC}
    fd = os.open(path, bits[flags])
    return "opened"


def fallocate(mode, offset, length):
    if libc.fallocate(fd, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return 0


def map_shared(offset, text):
    size = os.fstat(fd).st_size
    with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as view:
        view[offset : offset + len(text)] = text.encode()
        view.flush()
    return os.pread(fd, len(text), offset).decode()


def stat():
    s = os.stat(path)
    return [oct(s.st_mode), s.st_size, s.st_nlink, s.st_uid, s.st_gid]


def statvfs():
    s = os.statvfs(path)
    return [s.f_blocks * s.f_frsize, s.f_namemax]


CALLS = {
    "open": open_,
    "close": close,
    "pread": lambda offset, length: told(os.pread(fd, length, offset)),
    "pwrite": lambda offset, length, seed: os.pwrite(fd, content(length, seed), offset),
    "append": lambda length, seed: os.pwritev(fd, [content(length, seed)], os.fstat(fd).st_size),
    "ftruncate": lambda size: os.ftruncate(fd, size),
    "truncate": lambda size: os.truncate(path, size),
    "fallocate": fallocate,
    "data": lambda offset: os.lseek(fd, offset, os.SEEK_DATA),
    "hole": lambda offset: os.lseek(fd, offset, os.SEEK_HOLE),
    "end": lambda: os.lseek(fd, 0, os.SEEK_END),
    "fsync": lambda: os.fsync(fd),
    "fdatasync": lambda: os.fdatasync(fd),
    "stat": stat,
    "size": lambda: os.stat(path).st_size,
    "blocks": lambda: os.stat(path).st_blocks > 0,
    "statvfs": statvfs,
    "chmod": lambda mode: os.chmod(path, mode),
    "chown": lambda uid, gid: os.chown(path, uid, gid),
    "utime": lambda: os.utime(path, (1, 1)),
    "unlink": lambda: os.unlink(path),
    "rename": lambda: os.rename(path, path + "-renamed"),
    "setxattr": lambda: os.setxattr(path, "user.x", b"1"),
    "listxattr": lambda: os.listxattr(path),
    "map": map_shared,
}

for line in sys.stdin:
    name, *arguments = json.loads(line)
    try:
        result = CALLS[name](*arguments)
    except OSError as error:
        result = errno.errorcode.get(error.errno, str(error.errno))
    print(json.dumps(result), flush=True)

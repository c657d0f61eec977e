"""Drives every command and flag of a disk by libnbd against a model in memory.

usage: exercise.py URI SEED ROUNDS simple|structured|extended KNOWN
KNOWN: zero (the disk is new and blank) or read (whatever it holds now is the start).
Prints the SHA-256 of what the disk must hold, after having read it back.
"""

import hashlib
import random
import sys

import nbd

uri, seed, rounds, replies, known = sys.argv[1:6]
rnd = random.Random(int(seed))

h = nbd.NBD()
# AUTO_FLAG: libnbd itself says PAYLOAD_LEN where extended headers want it.
h.set_strict_mode(nbd.STRICT_COMMANDS | getattr(nbd, "STRICT_AUTO_FLAG", 0))
# For the files that a URI with TLS names.
h.set_uri_allow_local_file(True)
h.set_request_structured_replies(replies != "simple")
# libnbd 1.18 and later ask for extended headers unasked; older ones do not know them.
if hasattr(h, "set_request_extended_headers"):
    h.set_request_extended_headers(replies == "extended")
if replies != "simple":
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(uri)

size = h.get_size()
is_extended = hasattr(h, "get_extended_headers_negotiated") and h.get_extended_headers_negotiated()
assert is_extended == (replies == "extended"), f"libnbd {h.get_version()}: extended headers {is_extended}"
is_structured = is_extended or h.get_structured_replies_negotiated()
assert is_structured == (replies != "simple"), f"structured replies {is_structured}"
assert not h.is_read_only()
assert h.can_flush() and h.can_fua() and h.can_trim() and h.can_zero() and h.can_fast_zero() and h.can_cache()
assert h.can_df() == is_structured
MIB = 1 << 20


def read_all():
    data = bytearray()
    while len(data) < size:
        data += h.pread(min(32 * MIB, size - len(data)), len(data))
    return data


model = bytearray(size) if known == "zero" else read_all()


def disjoint_ranges(count):
    """Ranges that do not overlap, at odd places, mostly short."""
    points = sorted(rnd.sample(range(size + 1), 2 * count))
    for start, end in zip(points[::2], points[1::2]):
        shape = rnd.random()
        if shape < 0.3:
            start -= start % 4096
            end = max(start + 1, end - end % 4096)
        limit = rnd.choice([1, 512, 4096, 65536, 3 * MIB, 32 * MIB])
        yield start, min(end, start + limit)


class Operation:
    def __init__(self, start, end):
        self.start, self.length = start, end - start
        self.trimmed = False
        self.check = None
        self.fast = False
        fua = rnd.choice([0, nbd.CMD_FLAG_FUA]) if self.length < 65536 else 0
        getattr(self, rnd.choice(["write", "write", "zero", "trim", "read", "read", "cache", "status"]))(fua)

    def model_range(self):
        return slice(self.start, self.start + self.length)

    def write(self, fua):
        data = rnd.randbytes(self.length) if rnd.random() < 0.7 else bytes(self.length)
        self.buffer = nbd.Buffer.from_bytearray(bytearray(data))
        self.cookie = h.aio_pwrite(self.buffer, self.start, flags=fua)
        model[self.model_range()] = data

    def zero(self, fua):
        flags = fua
        if rnd.random() < 0.5:
            flags |= nbd.CMD_FLAG_NO_HOLE
        if rnd.random() < 0.3:
            flags |= nbd.CMD_FLAG_FAST_ZERO
            self.fast = True
        self.cookie = h.aio_zero(self.length, self.start, flags=flags)
        if not self.fast:
            model[self.model_range()] = bytes(self.length)

    def trim(self, fua):
        self.cookie = h.aio_trim(self.length, self.start, flags=fua)
        self.trimmed = True

    def cache(self, _):
        self.cookie = h.aio_cache(self.length, self.start)

    def read(self, _):
        expected = bytes(model[self.model_range()])
        if is_structured and rnd.random() < 0.7:
            got = bytearray(b"\xee" * self.length)
            chunks = []

            def chunk(data, offset, status, error):
                assert error.value == 0, error.value
                chunks.append(status)
                at = offset - self.start
                assert status in (nbd.READ_DATA, nbd.READ_HOLE)
                got[at : at + len(data)] = data
                return 0

            df = rnd.choice([0, nbd.CMD_FLAG_DF])
            buffer = nbd.Buffer(self.length)
            self.cookie = h.aio_pread_structured(buffer, self.start, chunk, flags=df)

            def check():
                assert bytes(got) == expected, f"read {self.start} +{self.length}"
                assert not df or len(chunks) == 1, f"{len(chunks)} chunks with DF"

            self.check = check
            return
        buffer = nbd.Buffer(self.length)
        self.cookie = h.aio_pread(buffer, self.start)

        def check():
            assert bytes(buffer.to_bytearray()) == expected, f"read {self.start} +{self.length}"

        self.check = check

    def status(self, _):
        if not is_structured:
            self.cache(_)
            return
        expected = bytes(model[self.model_range()])
        one = rnd.choice([0, nbd.CMD_FLAG_REQ_ONE])

        def extents(context, offset, entries, error):
            assert context == "base:allocation" and error.value == 0 and offset == self.start
            # The call for 64 bits gives pairs, the older one a flat list.
            pairs = entries if is_extended else list(zip(entries[::2], entries[1::2]))
            lengths, states = zip(*pairs)
            assert len(lengths) >= 1 and all(length > 0 for length in lengths)
            assert sum(lengths[:-1]) < self.length
            assert not one or (len(lengths) == 1 and lengths[0] <= self.length)
            assert self.start + sum(lengths) <= size
            at = 0
            for length, state in zip(lengths, states):
                if state & nbd.STATE_ZERO:
                    assert not any(expected[at : at + length]), "told to be zero, and is not"
                at += length
            return 0

        status = h.aio_block_status_64 if is_extended else h.aio_block_status
        self.cookie = status(self.length, self.start, extents, flags=one)

    def finish(self):
        while True:
            try:
                if h.aio_command_completed(self.cookie):
                    break
            except nbd.Error as error:
                # Only what had to be fast may be refused.
                assert self.fast and error.errnum in (95, None), error
                assert bytes(h.pread(self.length, self.start)) == bytes(model[self.model_range()])
                return
            h.poll(-1)
        if self.fast:
            model[self.model_range()] = bytes(self.length)
        if self.trimmed:
            # What it holds now is undefined, but it must stay.
            data = bytearray()
            while len(data) < self.length:
                at = self.start + len(data)
                data += h.pread(min(32 * MIB, self.length - len(data)), at)
            model[self.model_range()] = data
        if self.check:
            self.check()


for _ in range(int(rounds)):
    for operation in [Operation(start, end) for start, end in disjoint_ranges(rnd.randint(1, 24))]:
        operation.finish()
    if rnd.random() < 0.3:
        h.flush()

h.flush()
assert read_all() == model, "the whole disk"
h.shutdown()
print(hashlib.sha256(model).hexdigest())

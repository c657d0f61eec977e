/** A client that measures how long the first byte of a disk takes. */

/**
 * For Python with libnbd: connects to each URI of its arguments, reads the superblock of ext4, and prints the
 * milliseconds that it took. Clients come one after the other, `apart` seconds from the end of the last.
 */
export const firstByteScript = (apart: number): string => `
import nbd, sys, time
for uri in sys.argv[1:]:
    begin = time.monotonic()
    h = nbd.NBD()
    h.connect_uri(uri)
    magic = h.pread(2, 1024 + 56)
    print((time.monotonic() - begin) * 1000, flush=True)
    assert magic == b'\\x53\\xef', 'no ext4'
    h.shutdown()
    time.sleep(${apart})
`

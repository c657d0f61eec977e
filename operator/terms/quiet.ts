/**
 * What is left, in ms, of the `quietMs` since something happened `sinceMs` ago; undefined: they are over, or the clocks are
 * so far apart that they might never be. What has not happened yet, by our clock, has all of it before it.
 */
export function restOfQuiet(sinceMs: number, quietMs: number): number | undefined {
  return Math.abs(sinceMs) < quietMs ? Math.min(quietMs - sinceMs, quietMs) : undefined
}

/** Keys that are due at a time, each once: the earliest that was asked for counts. One timer for all of them. */
export class DelayQueue {
  readonly #onDue: (key: string) => void
  /** When each key is due, by `performance.now()`. */
  readonly #due = new Map<string, number>()
  /** A binary heap by time. Entries that `#due` no longer agrees with have been overtaken by earlier ones. */
  readonly #heap: { readonly key: string; readonly at: number }[] = []
  #timer: NodeJS.Timeout | undefined
  #timerAt = Number.POSITIVE_INFINITY

  constructor(onDue: (key: string) => void) {
    this.#onDue = onDue
  }

  get size(): number {
    return this.#due.size
  }

  add(key: string, ms: number): void {
    const at = performance.now() + ms
    const known = this.#due.get(key)
    if (known !== undefined && known <= at) return
    this.#due.set(key, at)
    this.#push({ key, at })
    this.#schedule()
  }

  /** Drops all keys. */
  close(): void {
    clearTimeout(this.#timer)
    this.#timerAt = Number.POSITIVE_INFINITY
    this.#due.clear()
    this.#heap.length = 0
  }

  #fire(): void {
    this.#timerAt = Number.POSITIVE_INFINITY
    const now = performance.now()
    for (let top = this.#heap[0]; top && top.at <= now; top = this.#heap[0]) {
      this.#pop()
      if (this.#due.get(top.key) !== top.at) continue
      this.#due.delete(top.key)
      this.#onDue(top.key)
    }
    this.#schedule()
  }

  #schedule(): void {
    const at = this.#heap[0]?.at ?? Number.POSITIVE_INFINITY
    if (at >= this.#timerAt || at === Number.POSITIVE_INFINITY) return
    clearTimeout(this.#timer)
    this.#timerAt = at
    // Rounded up: a timer that fires too early would find nothing due.
    this.#timer = setTimeout(() => this.#fire(), Math.max(0, Math.ceil(at - performance.now())))
  }

  #push(entry: { readonly key: string; readonly at: number }): void {
    const heap = this.#heap
    let index = heap.push(entry) - 1
    while (index > 0) {
      const parent = (index - 1) >> 1
      const above = heap[parent]
      if (!above || above.at <= entry.at) break
      heap[index] = above
      index = parent
    }
    heap[index] = entry
  }

  #pop(): void {
    const heap = this.#heap
    const last = heap.pop()
    if (!last || heap.length === 0) return
    let index = 0
    for (;;) {
      const left = 2 * index + 1
      const right = left + 1
      const child =
        (heap[right]?.at ?? Number.POSITIVE_INFINITY) < (heap[left]?.at ?? Number.POSITIVE_INFINITY)
          ? right
          : left
      const below = heap[child]
      if (!below || below.at >= last.at) break
      heap[index] = below
      index = child
    }
    heap[index] = last
  }
}

/** What one connection may do before others get their turn. */
const MAX_REQUESTS = 512
const MAX_BYTES = 8 * 2 ** 20

export class Turn {
  requests = 0
  /** Bytes moved. */
  bytes = 0

  begin(): void {
    this.requests = 0
    this.bytes = 0
  }

  get isOver(): boolean {
    return this.requests >= MAX_REQUESTS || this.bytes >= MAX_BYTES
  }
}

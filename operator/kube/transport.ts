/** How requests reach the API server: one small function, so that a simulation or a test can take its place. */

export interface HttpRequest {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** With query: `/api/v1/pods?limit=500`. */
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body?: string
  /** Cuts the connection, before the answer or within it. */
  readonly signal: AbortSignal
}

export interface HttpResponse {
  readonly status: number
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  /** Has to be read to its end, or the signal aborted. */
  readonly body: AsyncIterable<Uint8Array>
}

/** Sends a request and resolves with the head of the answer. Rejects with whatever error the connection has. */
export type Transport = (request: HttpRequest) => Promise<HttpResponse>

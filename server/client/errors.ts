/** Errors of the NBD client. Each has a `code`; texts that came from a server are quoted. */

/** Anything that goes wrong with an NBD server. */
export class NbdError extends Error {
  readonly code: string

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
    this.code = code
  }
}

/** This text is not the URI of an NBD export. */
export class UriError extends NbdError {
  constructor(message: string, options?: ErrorOptions) {
    super('EINVAL', message, options)
  }
}

/** The server cannot be reached, has gone, or does not answer in time. */
export class ConnectionError extends NbdError {}

/** TLS was asked for and cannot be had: the server has none, a file is missing, or a certificate does not verify. */
export class TlsError extends NbdError {}

/** The server breaks the protocol. Nothing it says is believed any more. */
export class BrokenServerError extends NbdError {
  constructor(message: string, options?: ErrorOptions) {
    super('EPROTO', message, options)
  }
}

/** The server was reached, and does not let us use the export, or does not have what we asked. */
export class RefusedError extends NbdError {}

/** The server answered a request by an error; `code` is that error. */
export class RequestError extends NbdError {}

/** A request that cannot be sent as it is: outside of the export, not aligned, not supported by the server. */
export class InvalidRequestError extends NbdError {}

/** The client was closed, by its user. */
export class ClosedError extends NbdError {
  constructor(options?: ErrorOptions) {
    super('ESHUTDOWN', 'The NBD client is closed.', options)
  }
}

/** After a reconnect the export is not what it was: using it further could corrupt data. */
export class ExportChangedError extends NbdError {
  constructor(message: string) {
    super('ESTALE', message)
  }
}

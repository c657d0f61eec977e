/** What this library logs with; any logger that takes fields before the message fits. */
export interface KubeLog {
  error(fields: Readonly<Record<string, unknown>>, message: string): void
  warn(fields: Readonly<Record<string, unknown>>, message: string): void
  info(fields: Readonly<Record<string, unknown>>, message: string): void
  debug(fields: Readonly<Record<string, unknown>>, message: string): void
}

/** An error that the world caused, as fields of a line: why, without the stack, which would say nothing. */
export function reasonOf(error: unknown): { readonly reason: string; readonly code?: string } {
  if (!(error instanceof Error)) return { reason: String(error) }
  const { message: reason } = error
  return 'code' in error && typeof error.code === 'string' ? { reason, code: error.code } : { reason }
}

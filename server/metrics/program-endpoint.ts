/** The endpoint of a whole program: what it counts itself, and what is counted of every process. */
import type { TcpAddress } from '../linux/listen-address.ts'
import { type EndpointTerms, serveMetrics } from './endpoint.ts'
import { measureEventLoopDelay } from './event-loop-delay.ts'
import type { HttpServer } from './http.ts'
import { type ProcessSources, processFamilies } from './process-families.ts'

/**
 * As `serveMetrics`, with the families of the process beside those of `terms`.
 * @throws HttpListenError
 */
export async function serveProgramMetrics(
  address: TcpAddress,
  terms: EndpointTerms & ProcessSources,
): Promise<HttpServer> {
  const delay = measureEventLoopDelay()
  try {
    const families = [...terms.families, ...processFamilies(terms), delay.family]
    const server = await serveMetrics(address, { ...terms, families })
    return {
      uri: server.uri,
      async close() {
        delay.close()
        await server.close()
      },
    }
  } catch (error) {
    delay.close()
    throw error
  }
}

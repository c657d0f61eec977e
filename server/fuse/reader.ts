/** The thread that serves one descriptor of the device: it blocks in its reads, so it does nothing else. */
import { workerData } from 'node:worker_threads'
import { serveBlocking } from './device.ts'
import { imageDisk, type OpenImage } from './image.ts'
import { Session, type SessionTerms } from './session.ts'

/** What a reader is started with. */
export interface ReaderData {
  readonly device: number
  readonly image: OpenImage
  readonly terms: SessionTerms
}

const { device, image, terms } = workerData as ReaderData
serveBlocking(device, new Session(imageDisk(image), terms))

/** Objects of others that have the names which pools need. They are not among what is followed, so each is watched. */
import type { KubeClient, ObjectRef } from '../kube/client.ts'
import type { KubeLog } from '../kube/log.ts'
import { type Reflector, startReflector } from '../kube/reflector.ts'
import { isOwnedBy } from './job-view.ts'
import type { SeenPool } from './observe.ts'
import { PARTS, type Part } from './observed.ts'
import { PART_RESOURCES } from './world.ts'

/** An object in a pool's way. */
export interface Obstacle {
  readonly part: Part
  readonly ref: ObjectRef
}

export interface ObstacleWatch {
  /** From now on watches these for the pool, and no others. */
  follow(pool: string, obstacles: readonly Obstacle[]): void
  stop(): Promise<void>
}

/** Each is a connection. Pools whose obstacles are not watched are looked at now and then all the same. */
const MAX_WATCHED = 32

/** What of others stands in the pool's way. */
export function obstaclesOf({ pool, parts }: SeenPool): Obstacle[] {
  return PARTS.flatMap(part => {
    const actual = parts[part]
    if (!actual || isOwnedBy(actual, pool.metadata.uid)) return []
    const { namespace, name } = actual.metadata
    return [{ part, ref: { namespace, name } }]
  })
}

/** `wake` is called with a pool's key when one of its obstacles has gone or changed. */
export function watchObstacles(
  client: KubeClient,
  wake: (pool: string) => void,
  log: KubeLog,
): ObstacleWatch {
  const watched = new Map<string, { readonly pool: string; readonly reflector: Reflector<never> }>()
  const keyOf = (pool: string, { part, ref }: Obstacle) => `${pool} ${part} ${ref.name}`

  function start(pool: string, { part, ref: { namespace, name } }: Obstacle): Reflector<never> {
    const reflector = startReflector({
      ...{ client, resource: PART_RESOURCES[part], namespace, log },
      fieldSelector: `metadata.name=${name}`,
      onEvent: event => {
        if (event.type !== 'added' || !event.initial) wake(pool)
      },
    })
    // It may have gone before the first look.
    reflector.synced.then(
      () => {
        if (reflector.store.size === 0) wake(pool)
      },
      () => {},
    )
    return reflector as unknown as Reflector<never>
  }

  return {
    follow(pool, obstacles) {
      const wanted = new Map(obstacles.map(obstacle => [keyOf(pool, obstacle), obstacle]))
      for (const [key, entry] of watched) {
        if (entry.pool !== pool || wanted.has(key)) continue
        watched.delete(key)
        void entry.reflector.stop()
      }
      for (const [key, obstacle] of wanted) {
        if (watched.has(key) || watched.size >= MAX_WATCHED) continue
        watched.set(key, { pool, reflector: start(pool, obstacle) })
      }
    },
    async stop() {
      await Promise.all([...watched.values()].map(({ reflector }) => reflector.stop()))
      watched.clear()
    },
  }
}

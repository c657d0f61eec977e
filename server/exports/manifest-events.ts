/** Events of a directory by inotify, also once another directory has taken its place. */
import { type FSWatcher, watch } from 'node:fs'
import { stat } from 'node:fs/promises'

/** A directory that is being watched. */
export interface DirectoryEvents {
  /**
   * Watches the directory that now has the path. True if that is a new one: everything in it may have changed.
   * @throws the error of a path that leads nowhere
   */
  renew(): Promise<boolean>
  close(): void
}

/**
 * Makes a watch that begins with `renew`. `onEvent` takes the name of what has changed in the directory,
 * undefined where it is not known; `onError` takes why there will be no events.
 */
export function directoryEvents(
  directory: string,
  onEvent: (name: string | undefined) => void,
  onError: (error: unknown) => void,
): DirectoryEvents {
  let watcher: FSWatcher | undefined
  let watched = ''

  function stop(): void {
    watcher?.close()
    watcher = undefined
    watched = ''
  }

  return {
    async renew() {
      const { dev, ino } = await stat(directory, { bigint: true })
      const identity = `${dev} ${ino}`
      if (identity === watched) return false
      stop()
      try {
        const started = watch(directory, { persistent: false }, (_, name) => onEvent(name ?? undefined))
        watcher = started
        watched = identity
        started.on('error', error => {
          if (watcher !== started) return
          stop()
          onError(error)
        })
      } catch (error) {
        onError(error)
      }
      return true
    },
    close: stop,
  }
}

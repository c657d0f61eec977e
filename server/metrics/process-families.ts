/** The process, by the names that all exporters use for these things. */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import type { Family, Sample } from './exposition.ts'

// These files are the kernel's own memory: reading them waits for no disk, whereas the thread pool that the
// asynchronous calls need may be full of operations that do.

/** Open descriptors; Linux 6.2 and later tell by the directory's size, without a look at each. */
function openDescriptors(): number {
  const { size } = statSync('/proc/self/fd')
  return size > 0 ? size : readdirSync('/proc/self/fd').length
}

function maxDescriptors(): number {
  const [, limit = ''] = /^Max open files\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
  return limit === 'unlimited' ? Infinity : Number(limit)
}

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

/** A value that cannot be had, as where /proc is not mounted, is left out. */
function optional(value: () => number): () => Sample[] {
  return () => {
    try {
      return [{ labels: [], value: value() }]
    } catch {
      return []
    }
  }
}

/** What only the program itself knows of its process. */
export interface ProcessSources {
  /** Of the program. */
  readonly version: string
  /** Operations that wait for a thread now. Absent: the program does not count them. */
  readonly queueLength?: () => number
}

function queueFamily(queueLength: () => number): Family {
  return {
    name: 'ondemand_disk_thread_pool_queue_length',
    type: 'gauge',
    labels: [],
    help: 'Disk operations that wait for a thread now.',
    samples: () => [{ labels: [], value: queueLength() }],
  }
}

/** Families of this process. */
export function processFamilies({ version, queueLength }: ProcessSources): Family[] {
  return [
    {
      name: 'ondemand_disk_build_info',
      type: 'gauge',
      labels: ['version', 'node'],
      help: 'Always 1; the labels say what runs.',
      samples: () => [{ labels: [version, process.versions.node], value: 1 }],
    },
    ...(queueLength ? [queueFamily(queueLength)] : []),
    {
      name: 'process_cpu_seconds_total',
      type: 'counter',
      labels: [],
      help: 'CPU time, user and system.',
      samples: optional(cpuSeconds),
    },
    {
      name: 'process_resident_memory_bytes',
      type: 'gauge',
      labels: [],
      help: 'Memory that is in RAM.',
      samples: optional(() => process.memoryUsage.rss()),
    },
    {
      name: 'process_open_fds',
      type: 'gauge',
      labels: [],
      help: 'Open file descriptors.',
      samples: optional(openDescriptors),
    },
    {
      name: 'process_max_fds',
      type: 'gauge',
      labels: [],
      help: 'Most file descriptors that may be open.',
      samples: optional(maxDescriptors),
    },
    {
      name: 'process_start_time_seconds',
      type: 'gauge',
      labels: [],
      help: 'When the process started, in seconds since 1970.',
      samples: optional(() => performance.timeOrigin / 1000),
    },
  ]
}

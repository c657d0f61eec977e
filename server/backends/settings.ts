/** The settings of a backend as they are written on the command line: `key=value`. */
import { quote } from '../../crds/quote.ts'
import { failureOf } from './layer/errors.ts'
import type { Config, ConfigKeys, Nearest } from './module-exports.ts'

/** Settings, or the name of a backend, that cannot be obeyed. The message is a sentence, without the backend's name. */
export class SettingError extends Error {
  override readonly name = 'SettingError'
  readonly code = 'EINVAL'
}

/**
 * Reads settings by the table of a backend's keys.
 * @throws SettingError naming the first that is wrong
 */
export function parseSettings(keys: ConfigKeys, settings: readonly string[], nearest: Nearest): Config {
  const values = new Map<string, unknown>()
  for (const setting of settings) {
    const equals = setting.indexOf('=')
    if (equals < 1) throw new SettingError(`${quote(setting)} is not KEY=VALUE.`)
    const name = setting.slice(0, equals)
    if (values.has(name)) throw new SettingError(`The key ${name} is given twice.`)
    if (!Object.hasOwn(keys, name)) throw unknownKey(name, keys, nearest)
    values.set(name, parseValue(name, setting.slice(equals + 1), keys))
  }
  for (const [name, { required, description }] of Object.entries(keys)) {
    if (required && !values.has(name)) throw new SettingError(`The key ${name} is missing: ${description}`)
  }
  return Object.fromEntries(values)
}

function parseValue(name: string, text: string, keys: ConfigKeys): unknown {
  const parse = keys[name]?.parse
  if (parse === undefined) return text
  try {
    return parse(text)
  } catch (thrown) {
    const reason = thrown instanceof Error ? thrown.message : failureOf('parse', thrown).message
    throw new SettingError(`${name}: ${reason}`, { cause: thrown })
  }
}

function unknownKey(name: string, keys: ConfigKeys, nearest: Nearest): SettingError {
  const known = Object.keys(keys)
  const near = nearest(name, known)
  if (near !== undefined) return new SettingError(`There is no key ${quote(name)}. Did you mean ${near}?`)
  const list = known.length === 0 ? 'This backend has no keys.' : `The keys are ${known.join(', ')}.`
  return new SettingError(`There is no key ${quote(name)}. ${list}`)
}

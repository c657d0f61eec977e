import { expect, test } from 'vitest'
import { ExportNameError, parseExportName } from '../../crds/export-name.ts'
import {
  CreationAbortedError,
  CreationError,
  DirectoryError,
  DiskInUseError,
  NoSuchDiskError,
  NotADiskError,
  TooManyDisksError,
} from '../backends/disks/errors.ts'
import { DiskHeldError } from '../exports/admission.ts'
import { ExportRefusal } from '../exports/export.ts'
import { InvalidOption, ProtocolViolation } from '../protocol/handshake.ts'
import { exportRefusalReason, HandshakeTimeout, handshakeRefusalReason } from './refusals.ts'
import { TlsError } from './tls.ts'

function badName(): unknown {
  try {
    return parseExportName('a/b', 'strict')
  } catch (error) {
    return error
  }
}

test.each([
  [new ExportRefusal('policy', ''), 'access'],
  [new ExportRefusal('tls', ''), 'tls'],
  [new ExportRefusal('unknown', ''), 'unknown'],
  [new ExportRefusal('invalid', ''), 'invalid'],
  [badName(), 'invalid'],
  [new InvalidOption(''), 'invalid'],
  [new NotADiskError('x', 'a FIFO'), 'invalid'],
  [new NoSuchDiskError('x'), 'unknown'],
  [new TooManyDisksError(3), 'limit'],
  [new DiskHeldError(''), 'busy'],
  [new DiskInUseError('x', undefined), 'busy'],
  [new CreationError('EIO', ''), 'creation'],
  [new CreationAbortedError(), 'creation'],
  [new DirectoryError('ENOSPC', ''), 'creation'],
  [new Error('The backend broke.'), 'open'],
  [undefined, 'open'],
])('%o is counted as %s', (error, reason) => {
  expect(exportRefusalReason(error)).toBe(reason)
})

test('the bad name above is one', () => {
  expect(badName()).toBeInstanceOf(ExportNameError)
})

test.each([
  [new HandshakeTimeout(''), 'timeout'],
  [new TlsError(''), 'tls'],
  [new ProtocolViolation(''), 'protocol'],
  [Object.assign(new Error(''), { code: 'ECONNRESET' }), undefined],
])('a handshake that ends with %o is counted as %s', (error, reason) => {
  expect(handshakeRefusalReason(error)).toBe(reason)
})

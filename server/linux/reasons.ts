/** What refusals of the system mean to people, as the end of a sentence: `Cannot listen on X: ${reason}.` */

const LISTENING: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another program listens there',
  EADDRNOTAVAIL: 'this machine does not have that address',
  EACCES: 'that needs more rights',
  ENOENT: 'the directory does not exist',
  ENOTFOUND: 'the host name is not known',
  EINVAL: 'the system refuses it',
}

const DIRECTORY: Readonly<Record<string, string>> = {
  ENOENT: 'it does not exist',
  ENOTDIR: 'it is not a directory',
  EROFS: 'its file system is read-only',
  ENOSPC: 'its file system is full',
}

/** Why nobody can listen there, by the code of the error. */
export function listenReason(code: string, otherwise: string): string {
  return LISTENING[code] ?? otherwise
}

/** Why a directory cannot be used, by the code of the error; `purpose`: what has to be allowed. */
export function directoryReason(code: string, purpose: string, otherwise: string): string {
  if (code === 'EACCES' || code === 'EPERM') return `the server may not ${purpose}`
  return DIRECTORY[code] ?? otherwise
}

/** For `.catch`: a file that is not there is an answer, undefined; every other error stays one. */
export function ignoreMissing (error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error
}

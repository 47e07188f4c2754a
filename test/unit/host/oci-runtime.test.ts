import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BerthError } from '../../../src/errors.ts'
import { RuntimeRefusal } from '../../../src/host/conmon.ts'
import { refusalError } from '../../../src/host/runtime-messages.ts'

/** What runsc 20240729 and runc 1.1.5 said, word for word. */
const captured: Array<{ said: string, code: string | undefined }> = [
  { code: 'command_not_found', said: 'executing processes for container: executing command "no-such" in sandbox: error finding executable "no-such" in PATH [/bin]: no such file or directory' },
  { code: 'command_not_found', said: 'executing processes for container: executing command "/no/such" in sandbox: failed to load /no/such: no such file or directory' },
  { code: 'command_not_found', said: 'executing processes for container: executing command "/etc/plain/x" in sandbox: failed to load /etc/plain/x: not a directory' },
  { code: 'command_not_executable', said: 'executing processes for container: executing command "/etc/plain" in sandbox: failed to load /etc/plain: permission denied' },
  { code: 'working_dir_not_found', said: 'executing processes for container: executing command "true" in sandbox: failed to find initial working directory "/no/such": no such file or directory' },
  { code: 'sandbox_not_running', said: 'loading container: file does not exist' },
  { code: 'sandbox_ended', said: 'waiting on pid 2: waiting on PID 2 in sandbox "sbx_1": urpc method "containerManager.WaitPID" failed: EOF' },
  { code: undefined, said: 'starting container: cannot start container "sbx_1" in state running' },
  { code: undefined, said: 'cannot delete container that is not stopped without --force flag' },
  { code: 'command_not_found', said: 'exec failed: unable to start container process: exec: "no-such": executable file not found in $PATH' },
  { code: 'command_not_found', said: 'exec failed: unable to start container process: exec: "/no/such": stat /no/such: no such file or directory' },
  { code: 'command_not_found', said: 'time="2026-11-22T16:04:51Z" level=error msg="exec failed: unable to start container process: exec: \\"no-such\\": executable file not found in $PATH"' },
  { code: 'command_not_found', said: 'exec failed: unable to start container process: exec: "/etc/plain/x": stat /etc/plain/x: not a directory' },
  { code: 'command_not_executable', said: 'exec failed: unable to start container process: exec: "/etc/plain": permission denied' },
  { code: 'working_dir_not_found', said: 'exec failed: unable to start container process: chdir to cwd ("/no/such") set in config.json failed: no such file or directory' },
  { code: 'working_dir_not_found', said: 'exec failed: unable to start container process: chdir to cwd ("/etc/plain") set in config.json failed: not a directory' },
  { code: 'sandbox_not_running', said: 'exec failed: container does not exist' },
  { code: 'sandbox_not_running', said: 'exec failed: cannot exec in a stopped container' },
  { code: 'sandbox_not_running', said: 'time="2026-11-22T16:04:52Z" level=error msg="container does not exist"' },
  { code: undefined, said: 'time="2026-11-22T16:04:52Z" level=error msg="cannot start an already running container"' },
  { code: undefined, said: 'runc create failed: unable to start container process: error during container init: error setting rlimits for ready process: error setting rlimit type 7: operation not permitted' },
]

for (const { said, code } of captured) {
  test(`${code ?? 'no error of the client'}: ${said}`, () => {
    const error = refusalError(new RuntimeRefusal(said), 'runsc')
    assert.equal(error instanceof BerthError ? error.code : undefined, code)
    if (code === undefined) assert.ok(error.message.includes(said), 'the log has the runtime\'s words')
    else assert.doesNotMatch(error.message, /\/no\/such|sbx_1|runsc|runc/, 'the client reads no word of the runtime')
  })
}

test('what is no refusal passes through as it is', () => {
  const error = new Error('conmon ended')
  assert.equal(refusalError(error, 'runsc'), error)
})

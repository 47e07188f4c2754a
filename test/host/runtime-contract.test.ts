/** The promises of OciRuntime, held by gVisor, by runc, and by the fake that stands in for them in failure matrices. */
import { testOciRuntime } from '../contract/oci-runtime-contract.ts'
import { buildFakeRig, buildProgramRig } from '../contract/runtime-rig.ts'

testOciRuntime('the fake', buildFakeRig)
testOciRuntime('runsc', t => buildProgramRig(t, 'runsc'))
testOciRuntime('runc', t => buildProgramRig(t, 'runc'))

/** Sandboxes of a fleet on the wire. */
import { Type, type Static } from '@sinclair/typebox'
import { SandboxPage } from './sandbox.ts'

/** A page of a fleet's sandboxes. */
export const FleetSandboxPage = Type.Object({
  ...SandboxPage.properties,
  unreachable: Type.Array(Type.String(), { description: 'Workers that did not answer in time: what is known to lie there is left out' }),
}, { $id: 'FleetSandboxPage', additionalProperties: false })
export type FleetSandboxPage = Static<typeof FleetSandboxPage>

import type { Command } from 'commander'
import type { CliContext, GatewayOptions } from './cli-context.ts'

const description = `Runs a gateway of a fleet in the foreground: hosts join it over gRPC, clients use it over REST. All state is in
Redis, so any number of gateways serve one fleet; they share the file with the admin token.

Each option is also a variable: BERTH_REDIS, BERTH_GATEWAY_LISTEN, BERTH_GATEWAY_GRPC_LISTEN,
BERTH_GATEWAY_ADMIN_TOKEN_FILE. All settings: docs/gateway-configuration.md.`

export function addGatewayCommand (program: Command, context: CliContext, act: (work: Promise<number>) => Promise<void>): void {
  program.command('gateway').summary('run a gateway of a fleet').description(description)
    .option('--redis <URL>', 'the Redis of the fleet (redis://127.0.0.1:6379)')
    .option('--listen <HOST:PORT>', 'where REST listens (127.0.0.1:7080)')
    .option('--grpc <HOST:PORT>', 'where gRPC listens, for hosts (127.0.0.1:7081)')
    .option('--token-file <FILE>', 'holds the admin token; made when it is missing (/var/lib/berth/gateway.token)')
    .action((options: GatewayOptions) => act(context.gateway(options)))
}

/** Where traces go, as the environment says it. */

export interface TracingSettings {
  /** Full URL that spans are posted to; empty: traces are off. */
  endpoint: string
  serviceName: string
}

/**
 * Reads BERTH_TRACES_ENDPOINT (full URL), else OpenTelemetry's own variables: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT (full URL),
 * OTEL_EXPORTER_OTLP_ENDPOINT (base, to which v1/traces is added), OTEL_SERVICE_NAME, OTEL_SDK_DISABLED.
 * https://opentelemetry.io/docs/specs/otel/protocol/exporter/
 *
 * @throws Error that says what is wrong with it.
 */
export function readTracingSettings (environment: Readonly<Record<string, string | undefined>>, defaultServiceName: string): TracingSettings {
  const settings = { endpoint: '', serviceName: environment['OTEL_SERVICE_NAME'] || defaultServiceName }
  if (environment['OTEL_SDK_DISABLED']?.toLowerCase() === 'true') return settings
  for (const variable of ['BERTH_TRACES_ENDPOINT', 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT', 'OTEL_EXPORTER_OTLP_ENDPOINT']) {
    const text = environment[variable]
    if (text === undefined || text === '') continue
    if (!URL.canParse(text) || !/^https?:$/.test(new URL(text).protocol)) throw new Error(`${variable}: give an http:// or https:// URL`)
    return { ...settings, endpoint: variable === 'OTEL_EXPORTER_OTLP_ENDPOINT' ? `${text.replace(/\/+$/, '')}/v1/traces` : text }
  }
  return settings
}

/** Names and values, on a card. What is not known is not shown. */
import type { ComponentChildren } from 'preact'

export type Fact = readonly [name: string, value: ComponentChildren]

export function Facts ({ title, facts }: { title: string, facts: readonly Fact[] }) {
  const known = facts.filter(([, value]) => value !== undefined && value !== false && value !== '' && value !== null)
  return (
    <section class='card' aria-label={title}>
      <h2>{title}</h2>
      <dl class='facts-list'>{known.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>
    </section>
  )
}

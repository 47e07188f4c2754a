/** Labels of a sandbox or task; pressing one filters by it. */
export function Labels ({ labels, onPick, most }: { labels: Record<string, string>, onPick?: (text: string) => void, most?: number }) {
  const all = Object.entries(labels)
  const shown = all.slice(0, most)
  return (
    <span class='labels'>
      {shown.map(([name, value]) => {
        const text = `${name}=${value}`
        return onPick
          ? <button key={name} type='button' class='label' title={`Filter by ${text}`} onClick={() => onPick(text)}>{text}</button>
          : <span key={name} class='label' title={text}>{text}</span>
      })}
      {shown.length < all.length && <span class='muted' title={all.map(pair => pair.join('=')).join('\n')}>+{all.length - shown.length}</span>}
    </span>
  )
}

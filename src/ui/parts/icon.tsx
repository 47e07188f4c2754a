/** Line drawings of 16 × 16, for who sees; names are said elsewhere. */
const paths = {
  sandboxes: 'M2.5 5 8 2l5.5 3v6L8 14l-5.5-3zM2.5 5 8 8l5.5-3M8 8v6',
  tasks: 'M2.5 4l1 1 2-2M2.5 8.500l1 1 2-2M2.500 13l1 1 2-2M8 4h5.5M8 8.500h5.500M8 13h5.500',
  images: 'M8 2l6 3-6 3-6-3zM2 8l6 3 6-3M2 11l6 3 6-3',
  events: 'M1.500 8h3l2-5 3 10 2-5h3',
  host: 'M2.500 3h11v4h-11zM2.500 9h11v4h-11zM5 5h.01M5 11h.01',
  terminal: 'M3 4l4 4-4 4M8.500 12H13',
  plus: 'M8 3v10M3 8h10',
  close: 'M4 4l8 8M12 4l-8 8',
  refresh: 'M13 8a5 5 0 1 1-1.500-3.600M13 2.500V5h-2.500',
  search: 'M7 11.500a4.500 4.500 0 1 0 0-9 4.500 4.500 0 0 0 0 9zM10.500 10.500l3 3',
  sun: 'M8 10.500a2.500 2.500 0 1 0 0-5 2.500 2.500 0 0 0 0 5zM8 1.500v1.500M8 13v1.500M1.500 8H3M13 8h1.500M3.500 3.500l1 1M11.500 11.500l1 1M3.500 12.500l1-1M11.500 4.500l1-1',
  moon: 'M13 9.500A5.500 5.500 0 0 1 6.500 3a5.500 5.500 0 1 0 6.500 6.500z',
  half: 'M8 13.500a5.500 5.500 0 1 0 0-11zM8 13.500a5.500 5.500 0 0 1 0-11z',
  leave: 'M6.500 2.500h-4v11h4M6 8h7.500M11 5.500 13.500 8 11 10.500',
  download: 'M8 2.500v7.500M5 7l3 3 3-3M2.500 13h11',
  upload: 'M8 10V2.500M5 5.500l3-3 3 3M2.500 13h11',
  trash: 'M3 4.500h10M6.500 4.500v-2h3v2M4.500 4.500l.5 9h6l.5-9',
  stop: 'M4 4h8v8H4z',
  pause: 'M5.500 3.500v9M10.500 3.500v9',
  play: 'M5 3l7.500 5L5 13z',
  folder: 'M2 4h4.500l1.500 1.500h6V13H2z',
  file: 'M4 2h5l3 3v9H4zM9 2v3h3',
  link: 'M6.500 9.500l3-3M7 5l1.500-1.500a2.500 2.500 0 0 1 3.500 3.500L10.500 8.500M9 11l-1.500 1.500A2.500 2.500 0 0 1 4 9l1.500-1.500',
  up: 'M8 13V3M4 7l4-4 4 4',
  down: 'M8 3v10M4 9l4 4 4-4',
  retry: 'M3 8a5 5 0 1 0 1.500-3.600M3 2.500V5h2.500',
  help: 'M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM6.200 6.200A1.900 1.900 0 1 1 8 8.400v.8M8 11.300h.01',
  eye: 'M1.500 8S4 3.500 8 3.500 14.500 8 14.500 8 12 12.500 8 12.500 1.500 8 1.500 8zM8 9.800a1.800 1.800 0 1 0 0-3.600 1.800 1.800 0 0 0 0 3.600z',
} as const

export type IconName = keyof typeof paths

export function Icon ({ name }: { name: IconName }) {
  return <svg class='icon' viewBox='0 0 16 16' aria-hidden='true' focusable='false'><path d={paths[name]} /></svg>
}

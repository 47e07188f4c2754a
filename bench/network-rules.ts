/** A policy as a careful team would write it: networks, names with and without a port, and exceptions. */
export const egressRules = Object.freeze({
  allow: [
    ...Array.from({ length: 8 }, (_, i) => `192.0.2.${i * 16}/28`),
    ...Array.from({ length: 6 }, (_, i) => `name${i}.example.com`), '*.example.org', 'git.example.net:22',
  ],
  deny: ['192.0.2.5', 'bad.example.org'],
})

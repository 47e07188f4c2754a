import neostandard, { resolveIgnoresFromGitignore } from 'neostandard'
import tseslint from 'typescript-eslint'

const typed = ['**/*.ts', '**/*.tsx']

export default [
  { ignores: [...resolveIgnoresFromGitignore(), 'openapi/'] },
  ...neostandard({ ts: true, noJsx: true }),
  {
    files: typed,
    languageOptions: {
      parser: tseslint.parser,
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
    plugins: { '@typescript-eslint': tseslint.plugin },
    // Few rules need types, because each costs seconds: those that catch what the compiler lets pass.
    rules: {
      '@typescript-eslint/no-floating-promises': ['error', {
        // Fastify's own are thenable and report through its boot and its error handler.
        allowForKnownSafePromises: [{ from: 'package', name: ['FastifyInstance', 'FastifyReply', 'SafePromiseLike'], package: 'fastify' }],
        // node:test's own calls answer with promises that nobody awaits.
        allowForKnownSafeCalls: [{ from: 'package', name: ['test', 'it', 'describe', 'suite', 'before', 'after'], package: 'node:test' }],
      }],
      '@typescript-eslint/no-misused-promises': ['error', { checksVoidReturn: { arguments: false } }],
      // A schema and the type made from it share a name; `void` marks a promise that is left alone on purpose.
      '@typescript-eslint/no-redeclare': 'off',
      'no-redeclare': 'off',
      'no-void': 'off',
      // A name that begins with _ is there for its place or, with `using`, for its end.
      '@typescript-eslint/no-unused-vars': ['error', { args: 'none', caughtErrors: 'none', ignoreRestSiblings: true, varsIgnorePattern: '^_' }],
      'no-return-assign': 'off',
      'no-unmodified-loop-condition': 'off',
      'no-unreachable-loop': 'off',
      '@typescript-eslint/await-thenable': 'error',
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      '@stylistic/max-len': ['error', { code: 180, ignoreStrings: true, ignoreTemplateLiterals: true, ignoreUrls: true, ignoreRegExpLiterals: true }],
    },
  },
  {
    // It runs in browsers, whose globals the compiler knows.
    files: ['src/ui/**'],
    rules: { 'no-undef': 'off' },
  },
]

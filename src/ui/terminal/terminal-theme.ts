/** Colours of terminals. */
import type { ITheme } from '@xterm/xterm'

const dark: ITheme = {
  background: '#0c0f14',
  foreground: '#d7dce4',
  cursor: '#7fb4ff',
  cursorAccent: '#0c0f14',
  selectionBackground: '#2f4a73',
  black: '#1c2129',
  red: '#f2777a',
  green: '#7fc98b',
  yellow: '#e5c07b',
  blue: '#6ea8fe',
  magenta: '#c792ea',
  cyan: '#5cc8d7',
  white: '#d7dce4',
  brightBlack: '#6b7482',
  brightRed: '#ff9a9c',
  brightGreen: '#a3e3ae',
  brightYellow: '#f5d99b',
  brightBlue: '#9cc5ff',
  brightMagenta: '#dfb5f7',
  brightCyan: '#8fe0ea',
  brightWhite: '#ffffff',
}

const light: ITheme = {
  background: '#fdfdfe',
  foreground: '#1e2430',
  cursor: '#1d4ed8',
  cursorAccent: '#ffffff',
  selectionBackground: '#c4d7fb',
  black: '#1e2430',
  red: '#b4232c',
  green: '#1f7a34',
  yellow: '#8a5a00',
  blue: '#1d4ed8',
  magenta: '#8b2fb0',
  cyan: '#0b7285',
  white: '#5c6675',
  brightBlack: '#7a8494',
  brightRed: '#d03a43',
  brightGreen: '#2f9248',
  brightYellow: '#a56f07',
  brightBlue: '#3b6ef0',
  brightMagenta: '#a34ac7',
  brightCyan: '#1a8ca1',
  brightWhite: '#1e2430',
}

export const terminalTheme = (isDark: boolean): ITheme => isDark ? dark : light

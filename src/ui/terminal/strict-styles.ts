/**
 * xterm.js makes <style> elements and style attributes, which a policy without 'unsafe-inline' refuses. Here both go through the style
 * sheets' own interface, which no policy restricts, since markup from elsewhere cannot reach it.
 */

let isInstalled = false

/** Once for the page, before the first terminal is made. What does not ask for <style> elements or style attributes sees no difference. */
export function allowTerminalStyles (): void {
  if (isInstalled) return
  isInstalled = true
  const createElement = document.createElement.bind(document) as (name: string, options?: ElementCreationOptions) => HTMLElement
  document.createElement = ((name: string, options?: ElementCreationOptions) => name.toLowerCase() === 'style' ? sheetElement(createElement) : createElement(name, options)) as typeof document.createElement
  const { setAttribute } = Element.prototype
  HTMLSpanElement.prototype.setAttribute = function (name: string, value: string) {
    if (name === 'style') this.style.cssText = value
    else setAttribute.call(this, name, value)
  }
}

/** Stands where a <style> element would: its text becomes a style sheet of the page, for as long as it is not removed. */
function sheetElement (createElement: (name: string) => HTMLElement): HTMLElement {
  const sheet = new CSSStyleSheet()
  const element = createElement('span')
  element.hidden = true
  let text = ''
  Object.defineProperty(element, 'textContent', {
    get: () => text,
    set: (given: string) => {
      text = given
      sheet.replaceSync(given)
      if (!document.adoptedStyleSheets.includes(sheet)) document.adoptedStyleSheets.push(sheet)
    },
  })
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter(one => one !== sheet)
    Element.prototype.remove.call(element)
  }
  return element
}

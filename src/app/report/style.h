// Style sheets of the report, inside the page: nothing is loaded from anywhere.
#pragma once

namespace espalier::app {

extern const char* const kThemeCss;  // colours, light and dark, as custom properties
extern const char* const kTreeCss;   // the tree drawing; also inside stand-alone SVG files
extern const char* const kPageCss;   // everything else: text, tables, charts, print

}  // namespace espalier::app

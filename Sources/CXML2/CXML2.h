// libxml2: reading, changing and writing a tree.
#ifndef UDMABRIDGE_CXML2_H
#define UDMABRIDGE_CXML2_H

#include <libxml/parser.h>
#include <libxml/tree.h>
#include <libxml/xmlsave.h>

// The function is a variable in C, which Swift does not treat as constant.
static inline void cxml_free(void *memory) { xmlFree(memory); }

#endif

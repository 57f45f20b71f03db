#include "CLibvirt.h"

#include <dlfcn.h>
#include <stddef.h>

// libvirt's declarations, with our names for its two opaque structures.
static struct {
  const char *(*virGetLastErrorMessage)(void);
  void (*virSetErrorFunc)(void *data, void (*handler)(void *data, void *error));
  clv_connection *(*virConnectOpen)(const char *);
  int (*virConnectClose)(clv_connection *);
  clv_domain *(*virDomainLookupByName)(clv_connection *, const char *);
  int (*virDomainFree)(clv_domain *);
  int (*virDomainIsActive)(clv_domain *);
  int (*virDomainIsPersistent)(clv_domain *);
  char *(*virDomainGetXMLDesc)(clv_domain *, unsigned int);
  clv_domain *(*virDomainDefineXMLFlags)(clv_connection *, const char *, unsigned int);
  int (*virDomainQemuMonitorCommand)(clv_domain *, const char *, char **, unsigned int);
} lv;

// Errors are thrown, not printed.
static void quiet(void *data, void *error) {
  (void)data;
  (void)error;
}

static int find(void *library, const char *name, void *function) {
  *(void **)function = dlsym(library, name);
  return *(void **)function != NULL;
}

const char *clv_load(void) {
  static int loaded;
  if (loaded) return NULL;
  void *base = dlopen("libvirt.so.0", RTLD_NOW | RTLD_GLOBAL);
  if (!base) return dlerror();
  void *qemu = dlopen("libvirt-qemu.so.0", RTLD_NOW);
  if (!qemu) return dlerror();
#define FIND(library, name) \
  if (!find(library, #name, &lv.name)) return dlerror()
  FIND(base, virGetLastErrorMessage);
  FIND(base, virSetErrorFunc);
  FIND(base, virConnectOpen);
  FIND(base, virConnectClose);
  FIND(base, virDomainLookupByName);
  FIND(base, virDomainFree);
  FIND(base, virDomainIsActive);
  FIND(base, virDomainIsPersistent);
  FIND(base, virDomainGetXMLDesc);
  FIND(base, virDomainDefineXMLFlags);
  FIND(qemu, virDomainQemuMonitorCommand);
#undef FIND
  lv.virSetErrorFunc(NULL, quiet);
  loaded = 1;
  return NULL;
}

const char *clv_error(void) { return lv.virGetLastErrorMessage(); }

clv_connection *clv_open(const char *uri) { return lv.virConnectOpen(uri); }
void clv_close(clv_connection *connection) { lv.virConnectClose(connection); }
clv_domain *clv_lookup(clv_connection *connection, const char *name) {
  return lv.virDomainLookupByName(connection, name);
}
void clv_free_domain(clv_domain *domain) { lv.virDomainFree(domain); }
int clv_is_active(clv_domain *domain) { return lv.virDomainIsActive(domain); }
int clv_is_persistent(clv_domain *domain) { return lv.virDomainIsPersistent(domain); }
char *clv_xml(clv_domain *domain, unsigned int flags) { return lv.virDomainGetXMLDesc(domain, flags); }
clv_domain *clv_define(clv_connection *connection, const char *xml, unsigned int flags) {
  return lv.virDomainDefineXMLFlags(connection, xml, flags);
}
int clv_monitor(clv_domain *domain, const char *command, char **answer, unsigned int flags) {
  return lv.virDomainQemuMonitorCommand(domain, command, answer, flags);
}

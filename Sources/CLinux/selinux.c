#include "CLinux.h"

#include <dlfcn.h>
#include <stddef.h>

// Declared as in libselinux's headers. The library is opened at its first use, because most systems lack it.
struct av_decision {
  uint32_t allowed, decided, auditallow, auditdeny, seqno, flags;
};
_Static_assert(sizeof(struct av_decision) == 24, "as libselinux has it");
struct selabel_handle;
struct selinux_opt {
  int type;
  const char *value;
};
enum { SELABEL_CTX_FILE = 0, SELABEL_OPT_PATH = 3, SELINUX_AVD_FLAGS_PERMISSIVE = 1 };

static struct {
  int (*is_selinux_enabled)(void);
  int (*security_getenforce)(void);
  const char *(*selinux_virtual_domain_context_path)(void);
  int (*getfilecon)(const char *, char **);
  void (*freecon)(char *);
  struct selabel_handle *(*selabel_open)(unsigned int, const struct selinux_opt *, unsigned);
  int (*selabel_lookup)(struct selabel_handle *, char **, const char *, int);
  void (*selabel_close)(struct selabel_handle *);
  unsigned short (*string_to_security_class)(const char *);
  uint32_t (*string_to_av_perm)(unsigned short, const char *);
  int (*security_compute_av)(const char *, const char *, unsigned short, uint32_t, struct av_decision *);
} se;

static int find(void *library, const char *name, void *function) {
  *(void **)function = dlsym(library, name);
  return *(void **)function != NULL;
}

int cl_selinux_load(void) {
  static int loaded;
  if (loaded)
    return 1;
  void *library = dlopen("libselinux.so.1", RTLD_NOW);
  if (!library)
    return 0;
#define FIND(name)                                                                                          \
  if (!find(library, #name, &se.name))                                                                     \
  return 0
  FIND(is_selinux_enabled);
  FIND(security_getenforce);
  FIND(selinux_virtual_domain_context_path);
  FIND(getfilecon);
  FIND(freecon);
  FIND(selabel_open);
  FIND(selabel_lookup);
  FIND(selabel_close);
  FIND(string_to_security_class);
  FIND(string_to_av_perm);
  FIND(security_compute_av);
#undef FIND
  loaded = 1;
  return 1;
}

int cl_selinux_enabled(void) { return se.is_selinux_enabled(); }
int cl_selinux_enforcing(void) { return se.security_getenforce(); }
const char *cl_selinux_domain_contexts(void) { return se.selinux_virtual_domain_context_path(); }
void cl_selinux_free(char *label) { se.freecon(label); }

char *cl_selinux_label(const char *path) {
  char *label = NULL;
  return se.getfilecon(path, &label) < 0 ? NULL : label;
}

char *cl_selinux_expected_label(const char *path, uint32_t mode, const char *contexts) {
  struct selinux_opt option = {.type = SELABEL_OPT_PATH, .value = contexts};
  struct selabel_handle *handle = se.selabel_open(SELABEL_CTX_FILE, &option, contexts ? 1 : 0);
  char *label = NULL;
  if (!handle)
    return NULL;
  int result = se.selabel_lookup(handle, &label, path, (int)mode);
  se.selabel_close(handle);
  return result < 0 ? NULL : label;
}

int cl_selinux_allows(const char *subject, const char *object, const char *class, const char *permission) {
  unsigned short number = se.string_to_security_class(class);
  uint32_t bit = number ? se.string_to_av_perm(number, permission) : 0;
  struct av_decision decision = {0};
  if (!bit || se.security_compute_av(subject, object, number, bit, &decision) < 0)
    return -1;
  return (decision.allowed & bit) || (decision.flags & SELINUX_AVD_FLAGS_PERMISSIVE) ? 1 : 0;
}

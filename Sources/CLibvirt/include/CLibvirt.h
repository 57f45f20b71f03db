// The calls of libvirt that are made here. Its libraries are opened at their first use, so that programs start without
// libvirt. The declarations are our own, so that programs can be built without libvirt.
#ifndef CLIBVIRT_H
#define CLIBVIRT_H

typedef struct clv_connection clv_connection;
typedef struct clv_domain clv_domain;

static const unsigned int CLV_XML_SECURE = 1;
static const unsigned int CLV_XML_INACTIVE = 2;
static const unsigned int CLV_DEFINE_VALIDATE = 1;
static const unsigned int CLV_MONITOR_HMP = 1;

// Opens the libraries: null, or why that failed.
const char *clv_load(void);
// The last error of this thread.
const char *clv_error(void);

clv_connection *clv_open(const char *uri);
void clv_close(clv_connection *connection);
clv_domain *clv_lookup(clv_connection *connection, const char *name);
void clv_free_domain(clv_domain *domain);
// 1, 0, or -1 for an error.
int clv_is_active(clv_domain *domain);
int clv_is_persistent(clv_domain *domain);
// The caller frees it with free().
char *clv_xml(clv_domain *domain, unsigned int flags);
clv_domain *clv_define(clv_connection *connection, const char *xml, unsigned int flags);
// The caller frees `answer` with free(). The call taints the domain.
int clv_monitor(clv_domain *domain, const char *command, char **answer, unsigned int flags);

#endif

// libdrm, and the constants of its headers that Swift does not see because they are function-like macros.
#ifndef UDMABRIDGE_CDRM_H
#define UDMABRIDGE_CDRM_H

#include <drm_fourcc.h>
#include <xf86drm.h>
#include <xf86drmMode.h>

#endif

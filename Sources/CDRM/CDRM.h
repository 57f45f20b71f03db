// libdrm, and the constants of its headers that Swift does not see because they are function-like macros.
#ifndef UDMABRIDGE_CDRM_H
#define UDMABRIDGE_CDRM_H

#include <drm_fourcc.h>
#include <xf86drm.h>
#include <xf86drmMode.h>

// Older headers do not have it; the value is the kernel's ABI.
#ifndef DRM_CLIENT_CAP_CURSOR_PLANE_HOTSPOT
#define DRM_CLIENT_CAP_CURSOR_PLANE_HOTSPOT 6
#endif

#endif

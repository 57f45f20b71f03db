// Descriptors, memfds and mappings belong to Udmabuf, so that the library's users get these and nothing else of the
// system. A file that imports Linux sees them too.
@_exported public import Udmabuf

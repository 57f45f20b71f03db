// A file that imports Linux sees descriptors, memfds and mappings too, which are Udmabuf's: a library's users are to get
// these with `import Udmabuf`, and nothing else of the system.
@_exported public import Udmabuf

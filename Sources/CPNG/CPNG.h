// libpng's simplified interface, whose formats are function-like macros that Swift does not see.
#ifndef UDMABRIDGE_CPNG_H
#define UDMABRIDGE_CPNG_H

#include <png.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

// Writes an image of bytes red, green, blue, alpha, without gaps between rows, to an open file.
// Returns 0 and a `message` of at most 64 bytes if that failed.
static inline int cpng_write_rgba(FILE *file, uint32_t width, uint32_t height, const void *pixels, char *message) {
  png_image image;
  memset(&image, 0, sizeof image);
  image.version = PNG_IMAGE_VERSION;
  image.width = width;
  image.height = height;
  image.format = PNG_FORMAT_RGBA;
  int written = png_image_write_to_stdio(&image, file, 0, pixels, 0, NULL);
  memcpy(message, image.message, sizeof image.message);
  return written;
}

// Begins to read an image from an open file, and stores the image's size. Returns 0 and a `message` of at most 64 bytes
// if that failed.
static inline int cpng_begin_reading(png_image *image, FILE *file, char *message) {
  memset(image, 0, sizeof *image);
  image->version = PNG_IMAGE_VERSION;
  int begun = png_image_begin_read_from_stdio(image, file);
  memcpy(message, image->message, sizeof image->message);
  return begun;
}

// Reads the pixels as bytes red, green, blue, alpha, without gaps between rows, and ends the reading. Returns 0 and a
// `message` of at most 64 bytes if that failed.
static inline int cpng_read_rgba(png_image *image, void *pixels, char *message) {
  image->format = PNG_FORMAT_RGBA;
  int read = png_image_finish_read(image, NULL, pixels, 0, NULL);
  memcpy(message, image->message, sizeof image->message);
  return read;
}

#endif
